"""What is whole of a damaged buffer, brought out of it. Only a buffer that is a file needs that; one on
a server has the server's own ways.
"""

from surgetank.buffer.sqlite.salvage import Salvaged, salvage

__all__ = ["Salvaged", "salvage"]
