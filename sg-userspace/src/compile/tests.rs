//! The compiled tables against the naive oracle, on random policies.
