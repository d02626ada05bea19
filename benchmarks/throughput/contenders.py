"""Who is measured. Imports nothing of what they need, so that what is missing can be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """One way to get batches of features.

    Attributes:
        name: in the table and on the command line.
        kind: "floor", "raudio" or "peer".
        trial: the function of `floors` or `peers` that opens it; of raudio, which feed.
        consumers: processes that each take all batches of all epochs.
        cores: that its work can be spread over; the floors of as many processes are its measure.
        format: the folder of clips that it reads besides the dataset's shards, see `clips.FORMATS`.
        needs: a package that raudio itself does not need.
    """

    name: str
    kind: str
    trial: str
    consumers: int = 1
    cores: int = 2
    format: str = ""
    needs: str = ""


_ALL = (
    Contender("floor-encoded-1", "floor", "encoded", cores=1),
    Contender("floor-encoded-2", "floor", "encoded", consumers=2),
    Contender("floor-cached-1", "floor", "cached", cores=1),
    Contender("floor-cached-2", "floor", "cached", consumers=2),
    Contender("raudio-resident-1", "raudio", "resident", cores=1),
    Contender("raudio-resident-2", "raudio", "resident", consumers=2),
    Contender("raudio-streamed-1", "raudio", "streamed"),
    Contender("raudio-streamed-2", "raudio", "streamed", consumers=2),
    Contender("dataloader", "peer", "dataloader", format="files"),
    Contender("datasets", "peer", "datasets", format="files", needs="datasets"),
    Contender("webdataset", "peer", "webdataset", format="tars", needs="webdataset"),
    Contender("lhotse", "peer", "lhotse", format="shar", needs="lhotse"),
    Contender("ray-data", "peer", "ray_data"),
    Contender("ray-data-once", "peer", "ray_data_once"),
)

CONTENDERS = {contender.name: contender for contender in _ALL}
