"""Weights of other libraries as .safetensors: python -m experiments.convert --input=model.pt --output=model.safetensors

Reads .npz, .safetensors, both formats of torch.save, pickles of numpy arrays and the msgpack of Flax, without torch and without running
anything that a file holds (docs/images.md). --below=ema keeps what lies below this name, and drops the name. Prints the names of the
arrays with their shapes; with --output= it does nothing else.
"""

from absl import flags

from experiments import command_line
from flowjax import buckets, folders, foreign, typing

INPUT = flags.DEFINE_string("input", "", "the file to read")
OUTPUT = flags.DEFINE_string("output", "", "the .safetensors file to write; empty: the names are printed alone")
BELOW = flags.DEFINE_string("below", "", "the part to keep, such as ema or ema_params/net")
SHOWN = 20  # names that are printed with an output


def main():
    if not INPUT.value:
        raise typing.InputError("--input is empty; expected the file to read: --input=model.pt.")
    folders.check_path(INPUT.value, "--input")
    output = buckets.path(OUTPUT.value)
    if OUTPUT.value:
        folders.check_path(output, "--output")
        if output.suffix != ".safetensors" or output.exists() or not (buckets.is_remote(output) or output.parent.is_dir()):
            why = (
                "exists already"
                if output.exists()
                else "has another ending"
                if output.suffix != ".safetensors"
                else "has no folder"
            )
            raise typing.InputError(
                f"--output={output} {why}; expected a new file in a folder that is there: --output=model.safetensors."
            )
    arrays = foreign.below(foreign.read(INPUT.value), BELOW.value)
    if OUTPUT.value:
        foreign.write(output, arrays)
    names = sorted(arrays)
    for name in names[:SHOWN] if OUTPUT.value else names:
        print(f"{name}: {arrays[name].dtype} {list(arrays[name].shape)}")
    total = sum(array.size for array in arrays.values())
    print(f"{len(arrays)} arrays, {total:,} numbers" + (f", written to {output}" if OUTPUT.value else ""))


if __name__ == "__main__":
    command_line.run(main)
