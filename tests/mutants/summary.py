"""A table at the end of the run: what each exercise refused, diagnosed and accepted."""


def pytest_addoption(parser):
    """Let a run try all the mutants that machine.py makes, not the sample alone."""
    parser.addoption("--all-mutants", action="store_true", help="try every mutant made by machine")


def pytest_terminal_summary(terminalreporter):
    """Print the table from the reports' user properties, which travel from the workers of xdist."""
    rows: dict[str, dict[str, list[int]]] = {}
    made: list[list[int]] = []
    for report in [
        r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])
    ]:
        for key, value in report.user_properties:
            if key in ("mutants", "diagnosed", "accepted", "generic"):
                rows.setdefault(value[0], {})[key] = value[1:]
            elif key == "machine":
                made.append(value[1:])
    if made:
        refused, equal, tried, named, false = map(sum, zip(*made, strict=True))
        terminalreporter.section("mutants made by machine")
        terminalreporter.write_line(
            f"{tried} tried: {refused} refused, {equal} as good as the reference,"
            f" {tried - refused - equal} survive; {named} named, {false} falsely"
        )
    if not rows:
        return
    terminalreporter.section("mutants")
    width = max(map(len, rows))
    terminalreporter.write_line(
        f"{'':{width}}  refused  diagnosed  generic refused  right accepted"
    )
    totals = {"mutants": [0, 0], "diagnosed": [0], "generic": [0, 0], "accepted": [0]}
    for id, row in sorted(rows.items()):
        terminalreporter.write_line(_line(id, row, width))
        for key, value in row.items():
            totals[key] = [a + b for a, b in zip(totals[key], value, strict=True)]
    terminalreporter.write_line(_line("total", totals, width))


def _line(name: str, row: dict[str, list[int]], width: int) -> str:
    text = {
        key: "/".join(map(str, row.get(key, ["-"])))
        for key in ("mutants", "diagnosed", "generic", "accepted")
    }
    cells = (
        f"{text['mutants']:>7}  {text['diagnosed']:>9}  {text['generic']:>15} "
        f" {text['accepted']:>14}"
    )
    return f"{name:{width}}  {cells}"
