"""What comes of broken containers: bits flipped, parts cut out, repeated or wiped, boxes resized, ends missing.

`tests/fuzzing.py` breaks and decodes them; a crash, a hang or a whole file that suffers ends it with an error.
"""

import sys
from pathlib import Path

from common import arguments, save_result, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzzing import NAMES, fuzz


def main() -> None:
    args = arguments(__doc__, files=20_160, min_decoded=0.3)
    shares = {"whole": 1.0, "in_part": args.min_decoded}
    with workspace() as folder:
        results = {name: dict(fuzz(folder, count=args.files, min_decoded=share)) for name, share in shares.items()}
    save_result("fuzz", {"settings": vars(args), "containers": NAMES, "results": results})


if __name__ == "__main__":
    main()
