"""How a run is divided over devices and processes."""
