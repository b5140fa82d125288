"""The table of a vision transformer's evaluations."""

from benchmarks.report.markdown import machine_line, prose, read, table


def vit_section() -> str:
    found = read("vit_speed")
    if not found:
        return ""
    rows = []
    for network, by_count in found.items():
        for recoveries, result in by_count.items() if isinstance(by_count, dict) else ():
            for way, value in result["milliseconds"].items():
                faster = result["times faster"].get(way)
                rows.append(
                    [
                        f"{network}, R={recoveries}",
                        way,
                        f"{value['q50']:.0f} ms",
                        f"{faster['q50']:.1f}×" if faster else "",
                    ]
                )
    return "\n".join(
        [
            "## A vision transformer's evaluation",
            "",
            prose(
                """
                `python -m benchmarks.search.vit_speed`. 3×32×32 images, patches of 4, width
                96, 6 layers, a class token; all R recoveries of one evaluation. *loop*: one
                after the other as in the table above; *single* and *vmap*: what serves
                networks that explicit mode does not cover.
                """
            ),
            "",
            table(("network", "way", "time", "explicit is faster by"), rows),
            "",
            machine_line(found),
        ]
    )
