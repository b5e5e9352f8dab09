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


def surprise() -> str:
    """The |z| of the shown labels, by which tables are ordered."""
    return f"max by (label) (abs({rule('positives:z1h')}))"


def shown_rule(name: str) -> str:
    """A recording rule as a table wants it: with the label only."""
    return f"max by (label) ({rule(name)})"
