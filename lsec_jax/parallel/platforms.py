"""The platforms that jax may use, which JAX_PLATFORMS lists: whether they are there, and where host arrays are made."""

import jax

from lsec_jax.config import ConfigError

_REMEDY = (
    "check the drivers, CUDA_VISIBLE_DEVICES and that jax is installed for these devices, or set JAX_PLATFORMS=cpu "
    "to use the CPU"
)


def require_devices() -> None:
    """Starts jax's platforms; of several connected processes each calls it once they are connected.

    Raises:
        ConfigError: a platform of JAX_PLATFORMS is not there. jax itself goes on with the CPU where it is listed too.
    """
    asked = _asked()
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where all that is listed is not there
        reason = str(error).splitlines()[0] if str(error) else "there are no such devices"
        place = f"JAX_PLATFORMS={asked}" if asked else "jax cannot start"
        raise ConfigError(f"{place}: {reason}; {_REMEDY}") from error
    wanted = asked.partition(",")[0]
    if found == "cpu" and wanted not in ("", "cpu"):
        raise ConfigError(f"JAX_PLATFORMS={asked}: jax finds no '{wanted}' here and would use the CPU; {_REMEDY}")


def host_device() -> jax.Device:
    """This process's CPU: where arrays are made that no accelerator could hold whole.

    Raises:
        ConfigError: JAX_PLATFORMS leaves the CPU out.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        asked = _asked()
        raise ConfigError(
            f"JAX_PLATFORMS={asked} leaves out the CPU, on which the arrays are made that several devices share; set "
            f"JAX_PLATFORMS={asked},cpu (the first one listed trains)"
        ) from error


def _asked() -> str:
    return jax.config.values["jax_platforms"] or ""
