"""`fedlit run` as a script, for `fabric run`, torchrun and srun: launch/train.py CONFIG [key=value ...]."""

import sys

from fedlit.__main__ import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
