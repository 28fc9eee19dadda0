//! Everything behind the `sgctl` binary. Data flows one way: text → rules (`policy`) → tables
//! (`compile`) → kernel (`kernel`) → counters and flows (`observe`); `oracle` is what all of them
//! are compared with. Arrows point down only: `policy` and `compile` never import `kernel`.

pub mod compile;
pub mod kernel;
pub mod lab;
pub mod observe;
pub mod oracle;
pub mod policy;
#[doc(hidden)]
pub mod testing;
