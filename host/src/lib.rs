//! Pretext: a host that pre-trains networks without labels.
