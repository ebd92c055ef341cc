"""``python -m busi_monai`` is the command ``busi-monai``; ``torchrun -m busi_monai`` needs it."""

from busi_monai.cli.main import main

if __name__ == "__main__":
    main(prog_name="busi-monai")
