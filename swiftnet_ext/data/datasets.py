import re

from .classes import CAMVID
from .folder import SegmentationFolder


def open_dataset(kind, root, split, **kw):
    d = SegmentationFolder(root, split, 11)
    d.classes = CAMVID
    return d


class Cached:
    def __init__(self, data):
        self.data = data
        self.items = {}

    def __getattr__(self, n):
        return getattr(self.__dict__["data"], n)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        if i not in self.items:
            self.items[i] = self.data[i]
        return self.items[i]

    def labels(self, i):
        return self[i][1]


class Subset:
    def __init__(self, data, idx):
        self.data = data
        self.idx = idx

    def __getattr__(self, n):
        return getattr(self.__dict__["data"], n)

    def __len__(self):
        return len(self.idx)

    def __getitem__(self, i):
        return self.data[self.idx[i]]

    def labels(self, i):
        return self.data.labels(self.idx[i])


class Joined:
    pass


def held_out(data, share):
    seqs = {}
    for i, p in enumerate(data.pairs):
        seqs.setdefault(p.image.stem.rsplit("_", 1)[0], []).append(i)
    fit, held = [], []
    for s in seqs.values():
        n = max(1, round(len(s) * share))
        fit += s[:-n]
        held += s[-n:]
    return fit, held
