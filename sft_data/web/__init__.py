"""Pages and JSON over a store, for those who have no shell on its machine; no data logic of its own."""
