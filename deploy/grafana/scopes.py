"""Which series a query of the overview is of."""

MODEL = 'model="$model"'
VERSION = f'{MODEL},version="$version"'
CHOSEN = f'{VERSION},label=~"$label"'  # all labels that are looked at
SHOWN = f'{VERSION},label=~"$shown"'  # of these, the ones with the largest surprise
RULE = "model_version_label:cutpoint_"
ALERTS = 'alertname=~"Cutpoint.*",model=~"$model|"'  # some alerts are of no model


def rule(name: str, of: str = SHOWN) -> str:
    """A recording rule of the positives' family, for some labels."""
    return f"{RULE}{name}{{{of}}}"


def gauge(name: str, of: str = SHOWN) -> str:
    """What a server exports, which is the same in every replica but while one is behind."""
    return f"max by (label) (cutpoint_{name}{{{of}}})"


def surprise(window: str, of: str = SHOWN) -> str:
    """How far positives are from those expected, in standard deviations that this label has shown: what the alerts look at."""
    return f"{rule(f'positives:z{window}', of)} / {rule('positives:dispersion7d', of)}"


def larger(one: str, other: str) -> str:
    """The larger of two, label by label; the one that is there, where one is not."""
    return f"({one} > {other} or {other} or {one})"


def order() -> str:
    """What tables are ordered by: the largest surprise first, of the hour or of the week."""
    hour, week = surprise("1h"), surprise("7d")
    return f"max by (label) {larger(f'abs({hour})', f'abs({week})')}"


def shown_rule(name: str) -> str:
    """A recording rule as a table wants it: with the label only."""
    return f"max by (label) ({rule(name)})"
