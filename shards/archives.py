"""Images in a tar or a zip, read in place.

An archive is read to its proven end, or not at all: a tar must end with its mark (zeros), and a zip's directory must
stand at its end and begin with the first member of the file. So an archive that broke off, or that another was appended
to, is an error, and never fewer images.

Links that lead to a file of the archive stand for it. Members that lead out, that are encrypted or stored as sparse
files, and links that lead to no file, are bad files.
"""

from __future__ import annotations

import os
import posixpath
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from shards.errors import ShardsError, ShardsUsageError, refusal
from shards.images import MAX_FILE_BYTES, BadImage
from shards.labels import Labels
from shards.listing import BadFile, list_files, safe_name
from shards.source import Source, file_stamp, name_as_text

_Place = TypeVar("_Place")

_DAMAGED_TAR = (tarfile.TarError, ValueError, OverflowError, RecursionError)
_MOST_LINKS = 40  # in a row, as Linux has it
# What a file that is no tar begins with, and what unpacks it
_OTHER_ARCHIVES = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"7z\xbc\xaf": ("7z", "7z x"),
    b"Rar!": ("rar", "unrar x"),
}
# What other files are that are no archives of images, by what they hold at a place, and what to do with them
_OF_FRAMES = "extract its frames into a folder, `ffmpeg -i FILE folder/%06d.png`, and pack the folder"
_OF_ARRAYS = "save its images as PNG files into a folder, and pack the folder"
_AN_IMAGE = "put the images into a folder, and pack the folder"
_NO_ARCHIVES = (
    (0, b"\x89PNG", "a single image", _AN_IMAGE),
    (0, b"\xff\xd8\xff", "a single image", _AN_IMAGE),
    (0, b"BM", "a single image", _AN_IMAGE),
    (0, b"II*\0", "a single image", _AN_IMAGE),
    (0, b"MM\0*", "a single image", _AN_IMAGE),
    (8, b"WEBP", "a single image", _AN_IMAGE),
    (4, b"ftypavif", "a single image", _AN_IMAGE),
    (0, b"GIF8", "a single image or animation", _OF_FRAMES),
    (4, b"ftyp", "a video", _OF_FRAMES),
    (0, b"\x1aE\xdf\xa3", "a video", _OF_FRAMES),
    (8, b"AVI ", "a video", _OF_FRAMES),
    (0, b"\x89HDF", "an HDF5 file", _OF_ARRAYS),
    (0, b"\x93NUMPY", "a NumPy array", _OF_ARRAYS),
    (0, b"PAR1", "a Parquet table", _OF_ARRAYS),
    (0, b"MATLAB", "a MATLAB file", _OF_ARRAYS),
)
_FOLDERS_AND_ARCHIVES = "what can be packed is a folder of image files, or a zip or tar of them"
_DOS, _NTFS, _VFAT = 0, 10, 14  # systems, in a zip, whose names hold no backslashes of their own
_MEMBER, _END = b"PK\x03\x04", b"PK\x05\x06"  # with what a member of a zip begins, and the end of its directory
_END_BYTES, _MAX_COMMENT_BYTES = 22, 1 << 16


def open_archive(path: Path, labels: Labels) -> Source:
    """The source in an archive.

    Raises:
        ShardsUsageError: the file is no archive that can be read.
        ShardsError: the archive is damaged, or cannot be read to its end.
    """
    if path.suffix.lower() == ".npz":  # a zip by its bytes
        raise ShardsUsageError(f"{path}: a file of NumPy arrays: {_OF_ARRAYS}")
    return ZipSource(path, labels) if zipfile.is_zipfile(path) else TarSource(path, labels)


class TarSource(Source):
    """Image files in an uncompressed tar: listed once, then read at their offsets."""

    kind = "tar"

    def __init__(self, path: Path, labels: Labels) -> None:
        self.path = path
        self.name = name_as_text(path.stem)
        self._spans: dict[str, tuple[int, int]] = {}
        bad = self._list_members()
        self.listing = list_files(self._spans, bad, self._read_member, labels)

    def read(self, number: int) -> bytes:
        """See Source."""
        return self._read_member(self.listing.items[number].name)

    def stamp(self) -> str:
        """See Source."""
        return file_stamp(self.path)

    def _list_members(self) -> list[BadFile]:
        members: _Members[tuple[int, int]] = _Members(self._spans)
        with self._open() as tar:
            try:
                for member in tar:
                    if member.size < 0 or tar.offset <= member.offset:  # tarfile would read in circles
                        raise ShardsError(f"{self.path}: a damaged tar: the size of {member.name} is negative")
                    if member.issym() or member.islnk():
                        members.add_link(member.name, member.linkname, from_top=member.islnk())
                    elif not member.isdir():
                        members.add(member.name, (member.offset_data, member.size), _refusal_of_tar_member(member))
            except OSError as error:
                raise refusal(error)(f"{self.path}: cannot be read: {error.strerror}") from None
            except _DAMAGED_TAR as error:
                raise ShardsError(f"{self.path}: a tar that is damaged, or has lost its end: {error}") from None
            _require_end_of_tar(self.path, tar.offset)
        return members.finish()

    def _open(self) -> tarfile.TarFile:
        try:
            return tarfile.open(self.path, "r:")
        except OSError as error:
            raise refusal(error)(f"{self.path}: cannot be read: {error.strerror}") from None
        except _DAMAGED_TAR as error:
            raise ShardsUsageError(f"{self.path}: {self._what_else_it_is(error)}") from None

    def _what_else_it_is(self, error: Exception) -> str:
        with self.path.open("rb") as file:
            start = file.read(16)
        for magic, (method, unpack) in _OTHER_ARCHIVES.items():
            if start.startswith(magic):
                return f"neither a zip nor an uncompressed tar but compressed with {method}: unpack it first: {unpack}"
        for place, magic, what, todo in _NO_ARCHIVES:
            if start[place:].startswith(magic):
                return f"{what}, and no archive of images: {todo.replace('FILE', str(self.path))}"
        return f"neither a zip nor an uncompressed tar that can be read ({error}); {_FOLDERS_AND_ARCHIVES}"

    def _read_member(self, name: str) -> bytes:
        offset, size = self._spans[name]
        if size > MAX_FILE_BYTES:
            raise BadImage(f"too large: {size:,} bytes, at most {MAX_FILE_BYTES:,}")
        try:
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise BadImage("cut off by the end of the archive")
        return data


class ZipSource(Source):
    """Image files in a zip."""

    kind = "zip"

    def __init__(self, path: Path, labels: Labels) -> None:
        self.path = path
        self.name = name_as_text(path.stem)
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        self._infos: dict[str, zipfile.ZipInfo] = {}
        bad = self._list_members()
        self.listing = list_files(self._infos, bad, self._read_member, labels)

    def read(self, number: int) -> bytes:
        """See Source."""
        return self._read_member(self.listing.items[number].name)

    def stamp(self) -> str:
        """See Source."""
        return file_stamp(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _list_members(self) -> list[BadFile]:
        infos = self._zip().infolist()
        _require_whole_zip(self.path, infos)
        members: _Members[zipfile.ZipInfo] = _Members(self._infos)
        for info in infos:
            name = _zip_name(info)
            if name.endswith("/"):
                continue
            refusal_of_member = _refusal_of_zip_member(info)
            if stat.S_ISLNK(info.external_attr >> 16) and refusal_of_member is None:
                try:
                    members.add_link(name, self._bytes(info).decode(errors="replace"), from_top=False)
                except BadImage as error:
                    members.add(name, info, f"a link: {error}")
            else:
                members.add(name, info, refusal_of_member)
        return members.finish()

    def _read_member(self, name: str) -> bytes:
        return self._bytes(self._infos[name])

    def _bytes(self, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > MAX_FILE_BYTES:
            raise BadImage(f"too large: {info.file_size:,} bytes, at most {MAX_FILE_BYTES:,}")
        try:
            return self._zip().read(info)
        except ShardsError:
            raise
        except Exception as error:  # whatever a decompressor raises at a member from outside is that member's fault
            raise BadImage(f"a damaged member: {error or type(error).__name__}") from None

    def _zip(self) -> zipfile.ZipFile:
        """A handle of this process: a forked one would share its file position with the parent's."""
        if self._handle is None or self._handle[0] != os.getpid():
            try:
                self._handle = (os.getpid(), zipfile.ZipFile(self.path))
            except OSError as error:
                raise refusal(error)(f"{self.path}: cannot be read: {error.strerror or error}") from None
            except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
                raise ShardsError(f"{self.path}: a damaged zip: {error}") from None
        return self._handle[1]


class _Members(Generic[_Place]):
    """The members of an archive as they are listed: where each file lies, by its path, and which are bad."""

    def __init__(self, files: dict[str, _Place]) -> None:
        self._files = files
        self._links: dict[str, str] = {}
        self._bad: list[BadFile] = []

    def add(self, member: str, place: _Place, reason: str | None) -> None:
        """A file, or the reason to refuse it."""
        name = self._admit(member, reason)
        if name is not None:
            self._files[name] = place

    def add_link(self, member: str, target: str, *, from_top: bool) -> None:
        """A link to a path: from the link's folder, or, as hard links have it, from the top of the archive."""
        name = self._admit(member, None)
        if name is not None:
            path = posixpath.normpath(posixpath.join("" if from_top else posixpath.dirname(name), target))
            self._links[name] = "" if path == ".." or path.startswith(("/", "../")) else path

    def finish(self) -> list[BadFile]:
        """Let every link stand for its file, and return the bad members."""
        folders = _folders_of(self._files) if self._links else set()
        for name in self._links:
            place, steps = self._links[name], 0
            while place in self._links and steps < _MOST_LINKS:
                place, steps = self._links[place], steps + 1
            if place in self._files:
                self._files[name] = self._files[place]
            elif place in folders:
                self._bad.append(BadFile(name, "a link to a folder that is already read"))
            else:
                where = "to no file of" if place else "out of"
                self._bad.append(BadFile(name, f"a link that leads {where} the archive"))
        return self._bad

    def _admit(self, member: str, reason: str | None) -> str | None:
        """A member's plain path; None if it is bad."""
        name = safe_name(member)
        if name is None:
            reason = "leads out of the archive"
        elif reason is None and (name in self._files or name in self._links):
            reason = "the archive holds this path twice"
        if reason is not None:
            self._bad.append(BadFile(name or member, reason))
            return None
        return name


def _folders_of(files: Iterable[str]) -> set[str]:
    folders: set[str] = set()
    for name in files:
        folder = posixpath.dirname(name)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return folders | {"."}


def _refusal_of_tar_member(member: tarfile.TarInfo) -> str | None:
    if not member.isreg():
        return "not a plain file"
    return "stored as a sparse file: unpack the archive and pack the folder" if member.issparse() else None


def _refusal_of_zip_member(info: zipfile.ZipInfo) -> str | None:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFLNK):
        return "not a plain file"
    return "encrypted" if info.flag_bits & 1 else None


def _zip_name(info: zipfile.ZipInfo) -> str:
    """A member's path with slashes, which some tools of Windows write as backslashes."""
    windows = info.create_system in (_DOS, _NTFS, _VFAT)
    return info.filename.replace("\\", "/") if windows else info.filename


def _require_end_of_tar(path: Path, end: int) -> None:
    """A tar ends with zeros. One that broke off between two members looks whole without them; one that another was
    appended to has more behind them.

    Raises ShardsError.
    """
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
        if len(rest) < tarfile.BLOCKSIZE or any(rest):
            raise ShardsError(
                f"{path}: the archive has lost its end: a download or a copy broke off, and images are missing; get it "
                "again, or, if it is all there is, unpack it and pack the folder"
            )
        while rest := file.read(1 << 20):
            if rest.strip(b"\0"):
                raise ShardsError(
                    f"{path}: something follows the end of the archive, perhaps a second one: unpack it, with "
                    "`tar --ignore-zeros -xf`, and pack the folder"
                )


def _require_whole_zip(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """The directory at the end of a zip lists all members. What zipfile finds may be that of another zip: of one within
    an archive that broke off, or of the second of two that were joined. Then the file begins with an unlisted member.

    Raises ShardsError.
    """
    with path.open("rb") as file:
        starts_with_member = file.read(len(_MEMBER)) == _MEMBER
        file.seek(max(0, path.stat().st_size - _END_BYTES - _MAX_COMMENT_BYTES))
        rest = file.read()
    first = min((info.header_offset for info in infos), default=-1)
    if first < 0 and infos:
        raise ShardsError(
            f"{path}: a part of a zip that was split: join its parts first: zip -s 0 PART.zip --out ALL.zip"
        )
    if starts_with_member and first != 0:
        raise ShardsError(
            f"{path}: the zip's directory does not list the first member: it broke off and holds another zip, or two "
            "were joined; get it again, or join folders instead"
        )
    (count,) = struct.unpack_from("<H", rest, rest.rindex(_END) + 10)
    if count != 0xFFFF and count != len(infos) % 0x10000:  # 0xFFFF: in a field of 64 bits
        raise ShardsError(f"{path}: a damaged zip: its directory lists {len(infos)} members, and says {count}")
