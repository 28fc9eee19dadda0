//! Geometry of the lookup tables and the one walk through them, shared by kernel and host.
