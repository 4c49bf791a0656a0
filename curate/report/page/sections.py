"""The sections of the report: tables whose columns explain themselves, figures, and remedies.

A section whose evidence is missing says which command makes it, so that the page is the same for
every dataset.
"""

from __future__ import annotations

from curate.report.page.about_data import domains, losses, provenance
from curate.report.page.about_laws import laws, runs, validation
from curate.report.page.about_mixture import methods, mixture, summary
from curate.report.page.material import Material
from curate.report.page.parts import Section


def all_sections(material: Material) -> list[Section]:
    """Return every section, in the order of the page."""
    return [
        summary(material),
        Section("explorer", "Mixture explorer", "What would another mixture cost?"),
        mixture(material),
        methods(material),
        laws(material),
        runs(material),
        validation(material),
        domains(material),
        losses(material),
        provenance(material),
    ]
