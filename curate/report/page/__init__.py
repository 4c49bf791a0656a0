"""The report, one self-contained HTML page with the mixture explorer.

`material` is what it is made from, `sections` turn that into tables and figures, `figures` draws
them as SVG, `explorer` exports the law and the runs, `page` puts it all into the template.
"""
