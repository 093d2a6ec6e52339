"""`invoke rehearse`: the roles on a stand-in for Ubuntu, and a record of which task ran where."""
