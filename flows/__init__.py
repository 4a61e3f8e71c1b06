"""When and where pipelines run: Prefect flows. No data logic lives here."""
