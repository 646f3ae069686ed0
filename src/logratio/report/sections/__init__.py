"""The parts of the page, in their order: each is a function of the report and empty where it has nothing."""
