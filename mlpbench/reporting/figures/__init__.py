"""Draw frames as figures. Every axis has a name and a unit; every estimate shows its spread."""
