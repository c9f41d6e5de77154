"""Any TFDS image dataset, without TensorFlow: array_record files, read by row id."""

import contextlib
import difflib
import io
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging as absl_logging
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.proto import tf_example_pb2

from flowjax import buckets, typing
from flowjax.data import pipeline

IN_MEMORY = 512 * 2**20  # bytes of decoded images; above it, rows are read on demand
_NAME = r"[A-Za-z]\w*(/[\w.+-]+)?(:[\d.*]+)?"
Rows = Callable[[np.ndarray], dict[str, np.ndarray]]
_NETWORK_ERRORS = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout", "URLError", "gaierror", "DownloadError")


def source(name: str, *, split: str = "train", data_dir: str | None = None, others: Sequence[str] = ()) -> pipeline.Source:
    """One split of a TFDS image dataset, downloaded and prepared when it is not there yet.

    Args:
      name: `name`, `name/config` or `name:version`, as TFDS writes them.
      split: a split, a sum of splits or a slice of one: `"train"`, `"train+test"`, `"train[:10%]"`.
      data_dir: the TFDS directory; None: TFDS's default, which honours TFDS_DATA_DIR.
      others: further names to suggest when this one is unknown.

    Returns:
      A source of uint8 [H, W, C], labelled if the dataset has a class label named `label`.
    """

    return from_builder(_maker(name, data_dir, others), name, split=split)


class Files(NamedTuple):
    """Images of any size as the files in which a data set holds them.

    Attributes:
      size: how many.
      classes: names of the classes; () if there are none.
      read: row ids [n] -> records {"image": bytes, "label": number}, a list.
      about: what they are of, a text.
    """

    size: int
    classes: tuple[str, ...]
    read: Callable[[Sequence[int]], list[dict]]
    about: str


def files(name: str, *, split: str, data_dir: str | None = None) -> Files:
    """The image files of a TFDS dataset that was prepared, such as imagenet2012, read by row id without TensorFlow.

    Args:
      name: as of `source`.
      split: "train" or "test"; the second is TFDS's "validation" where there is one, as of ImageNet, whose test images have no labels.
      data_dir: as of `source`.

    Raises:
      InputError: it was not prepared as array_record files, or has no colour images.
    """
    with _quiet(), _no_code(), _readable(name):
        builder = _maker(name, data_dir, ())()
        features = builder.info.features
        image, label = (
            dict(features).get(key) if isinstance(features, tfds.features.FeaturesDict) else None for key in ("image", "label")
        )
        if not isinstance(image, tfds.features.Image) or image.shape[-1] != 3 or image.np_dtype != np.uint8:
            raise typing.InputError(
                f"{name} has no feature `image` of three colours, uint8; its features are {features!r:.200}."
            )
        if not builder.is_prepared():
            raise typing.InputError(
                f"{name} is not in {builder.data_path} as array_record files, which are read here without TensorFlow: where TensorFlow is,"
                f" `tfds build {name} --file_format=array_record` writes them; or give its archive, --source=tar:FILE."
            )
        split = "validation" if split == "test" and "validation" in builder.info.splits else split
        reader = _open(builder, name, split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        classes = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()

    def read(ids: Sequence[int]) -> list[dict]:
        with _readable(name):
            return [_record(content, bool(classes)) for content in reader.__getitems__([int(i) for i in ids])]

    return Files(len(reader), classes, read, f"{builder.info.full_name} {split}")


def _record(content: bytes, labelled: bool) -> dict:
    """The image file and the label of an example as it is stored; TFDS' own parser of files that stay encoded asks for TensorFlow."""
    features = tf_example_pb2.Example.FromString(content).features.feature
    record = {"image": features["image"].bytes_list.value[0]}
    return record | {"label": features["label"].int64_list.value[0]} if labelled else record


def _maker(name: str, data_dir: str | None, others: Sequence[str]) -> Callable[[], tfds.core.DatasetBuilder]:
    """What makes the builder of a dataset; raises InputError for a name that is none."""
    if not re.fullmatch(_NAME, name):  # with a prefix "community:" or the like TFDS would download code and run it
        raise typing.InputError(
            f"there is no dataset {name!r:.100}; expected a name as TFDS writes it: cifar10, name/config, name:1.0.0."
        )

    def make() -> tfds.core.DatasetBuilder:
        try:
            return tfds.builder(name, data_dir=data_dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError:
            known = [*others, *tfds.list_builders(with_community_datasets=False)]
            near = ", ".join(difflib.get_close_matches(name.split("/")[0].split(":")[0], known, n=3, cutoff=0.5))
            raise typing.InputError(
                f"There is no dataset {name!r}; {f'near it: {near}; ' if near else ''}ready here: {', '.join(others)}; "
                "the name of any TFDS image dataset works too (cifar10, mnist)."
            ) from None
        except typing.InputError:
            raise
        except Exception as error:
            if "File format is already set" in str(error):
                raise typing.InputError(
                    f"{name} was prepared in a format that only TensorFlow reads: give another data_dir to prepare it anew."
                ) from error
            raise typing.InputError(f"TFDS cannot open the dataset {name!r}: {_sentence(error)}.") from error

    return make


def from_builder(
    make: Callable[[], tfds.core.DatasetBuilder], name: str, *, split: str, silent: bool = False
) -> pipeline.Source:
    """Prepares a dataset if need be and opens one split of it.

    Args:
      make: builds the TFDS builder; called again after a preparation, since a builder reads the directory when it is made.
      name: for messages and the source.
      split: the split.
      silent: no announcements and no progress bars, for what is ready in a moment.

    Returns:
      A source of uint8 [H, W, C].
    """
    with _quiet(), _no_code(), _readable(name):
        builder = make()
        shape, num_classes = _check_features(name, builder.info.features)
        if not builder.is_prepared():
            _prepare(builder, make, name, silent)
            builder = make()
        reader = _open(builder, name, split)
        small = len(reader) * np.prod(shape, dtype=np.int64) <= IN_MEMORY
        rows = _in_memory(reader, name, shape, num_classes) if small else _by_id(reader, name, num_classes)
    return pipeline.Source(name, len(reader), shape, num_classes, rows, levels=256)


def _prepare(builder: tfds.core.DatasetBuilder, make: Callable, name: str, silent: bool) -> None:
    """Writes the dataset; TFDS writes aside and renames, so a killed process leaves nothing that looks finished."""
    announcements = io.StringIO() if silent else sys.stderr
    try:
        with contextlib.redirect_stdout(announcements), contextlib.redirect_stderr(announcements):
            builder.download_and_prepare()
    except Exception as error:
        if make().is_prepared():
            return  # another process was first, and the rename failed on its directory
        here = builder.data_path
        if type(error).__name__ not in _NETWORK_ERRORS:
            raise typing.InputError(f"{name} is not in {here} and cannot be prepared there: {_sentence(error)}.") from error
        there = f"tfds/{here.relative_to(builder.data_dir_root)}"
        raise typing.InputError(
            f"{name} is not in {here} and its download failed ({_sentence(error)}): on a machine with a network run "
            f"`python -c \"from flowjax import data; data.load('{name}', data_dir='tfds')\"` and copy {there} to {here}."
        ) from error


def _check_features(name: str, features: tfds.features.FeatureConnector) -> tuple[tuple[int, ...], int]:
    """The shape of an image and the number of classes (0: no class label)."""
    if not isinstance(features, tfds.features.FeaturesDict) or "image" not in features:
        raise typing.InputError(f"{name} has no feature `image`; its features are {', '.join(features or ())}.")
    image, label = features["image"], dict(features).get("label")
    shape = image.shape
    if not isinstance(shape, tuple) or len(shape) != 3 or None in shape or image.np_dtype != np.uint8:
        raise typing.InputError(
            f"{name} has the images {image!r}; they must be uint8 [H, W, C] of one size: "
            "choose another dataset, or prepare a resized one."
        )
    return shape, label.num_classes if isinstance(label, tfds.features.ClassLabel) else 0


def _open(builder: tfds.core.DatasetBuilder, name: str, split: str, **options) -> Sequence[dict]:
    """The random-access reader of a split; `options` are those of TFDS."""
    splits, here = builder.info.splits, builder.data_path
    try:
        shards = splits[split].file_instructions if splits else None
    except (KeyError, ValueError) as error:
        raise typing.InputError(
            f"{name} has no split {split!r}; its splits are {' and '.join(sorted(splits))}, "
            "which can be added and sliced ('train+test', 'train[:10%]')."
        ) from error
    if shards == []:
        raise typing.InputError(f"{name}: the split {split!r} has no rows.")
    # The files are opened by the first read, in a thread: an interrupted copy is detected here instead.
    if missing := [shard.filename for shard in shards or () if not buckets.exists(shard.filename)]:
        raise typing.InputError(f"{name} is incomplete, {missing[0]} is missing: delete {here} and load it again.")
    try:
        return builder.as_data_source(split, **options)
    except Exception as error:
        raise typing.InputError(
            f"{name} cannot be read by rows ({_sentence(error)}): delete {here} and load it again."
        ) from error


def _by_id(reader: Sequence[dict], name: str, num_classes: int) -> Rows:
    """Rows read from the disk on demand."""

    def rows(ids: np.ndarray) -> dict[str, np.ndarray]:
        with _readable(name):
            records = reader.__getitems__([int(i) for i in ids])
            batch = {"x": np.stack([record["image"] for record in records])}
            if num_classes:
                batch["label"] = np.array([record["label"] for record in records], np.int32)
        return batch

    return rows


def _in_memory(reader: Sequence[dict], name: str, shape: tuple[int, ...], num_classes: int) -> Rows:
    """Rows decoded once, now."""
    size = len(reader)
    columns = {"x": np.empty((size, *shape), np.uint8)}
    if num_classes:
        columns["label"] = np.empty(size, np.int32)
    for i in tqdm.tqdm(range(size), desc=f"reading {name}", unit=" rows", delay=3, leave=False):
        record = reader[i]
        columns["x"][i] = record["image"]
        if num_classes:
            columns["label"][i] = record["label"]
    return lambda ids: {key: column[ids] for key, column in columns.items()}


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever goes wrong while files of a dataset are read becomes one sentence."""
    try:
        yield
    except typing.InputError:
        raise
    except Exception as error:  # decoders and TFDS raise every type there is
        raise typing.InputError(
            f"the files of the dataset {name} are damaged or incomplete ({_sentence(error)}): delete its folder in the TFDS directory"
            " (config.data.dir, or TFDS_DATA_DIR), and it is prepared again."
        ) from error


@contextlib.contextmanager
def _no_code() -> Iterator[None]:
    """A dataset's files name the Python classes of its features, which TFDS imports: none but its own."""
    features = tfds.features.FeatureConnector
    find = features.__dict__["cls_from_name"]

    def checked(cls: type, name: str) -> type:
        if not name.startswith("tensorflow_datasets."):
            raise typing.InputError(
                f"its files name the class {name!r:.100}, whose code would run here; expected features of TFDS."
            )
        return find.__get__(None, cls)(name)

    features.cls_from_name = classmethod(checked)
    try:
        yield
    finally:
        features.cls_from_name = find


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Mutes the warnings of absl and urllib3, and gives up on a missing network after seconds."""
    # The threads of a failed download outlive it, so this one is not restored.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # TFDS backs off through ten retries, 205 s in all, before it reports that there is no network; five take 6 s.
    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 5
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries
        absl_logging.set_verbosity(verbosity)


def _sentence(error: Exception) -> str:
    """An error in half a line: an unreachable host by its name, anything else by its type and first line."""
    text = re.sub(r'^Failed to construct dataset .*?}": ', "", str(error).strip())
    if host := re.search(r"host='([^']+)'", text):
        return f"no connection to {host[1]}"
    return f"{type(error).__name__}: {next(iter(text.splitlines()), '')[:200]}".rstrip(" .:")
