"""Networks that come from other programs, and networks that go to them: `spider import` and `spider export`."""
