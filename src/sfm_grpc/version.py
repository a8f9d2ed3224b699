"""The release, in one place: the wheel, `sfm --version` and GetServerInfo all read it here."""

__version__ = "3.0.0.dev0"
