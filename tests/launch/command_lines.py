"""What tests of the launchers give them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "--config=configs/lsec_gcn_synthetic.py:tiny"
TRAINING = ["--", CONFIG, "--workdir=/shared/runs/a b"]
POD = ["--name=pod", "--zone=us-east5-b"]
JOB_SET = ["--name=run-a", "--image=registry/lsec_jax:1", "--claim=runs"]
