"""`python -m surgetank` is the command `surgetank`."""

from surgetank.cli import main

if __name__ == "__main__":
    main()
