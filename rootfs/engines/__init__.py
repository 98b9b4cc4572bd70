"""How a root file system is produced: from Debian packages or by Buildroot."""
