//! The contract between the Pretext host and its methods.
