"""A toy task that lies outside mae-bench, as a package of somebody else's would: depth of drawn rooms from one image."""
