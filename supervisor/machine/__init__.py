"""CPU and memory of this machine or container, read from psutil and cgroups. The importer of psutil."""
