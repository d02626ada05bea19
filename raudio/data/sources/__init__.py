"""Where clips and their labels come from. Reads names only, no audio: everything that a label file
or a folder can have wrong is found here, before anything is written.
"""

from raudio.data.sources.files import AUDIO_SUFFIXES, closest_path
from raudio.data.sources.item import DEEP, Event, Item, check_events, read_item
from raudio.data.sources.read import is_source_file, read_source
from raudio.data.sources.source import Source
from raudio.data.sources.tables import LABEL_SUFFIXES

__all__ = [
    "AUDIO_SUFFIXES",
    "DEEP",
    "LABEL_SUFFIXES",
    "Event",
    "Item",
    "Source",
    "check_events",
    "closest_path",
    "is_source_file",
    "read_item",
    "read_source",
]
