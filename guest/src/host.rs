//! The boundary: in a component the host is what it imports, in a native test it is [`memory`](crate::memory). Nothing
//! else in the SDK knows on which side it runs.

#[cfg(not(target_arch = "wasm32"))]
pub use crate::memory::*;
#[cfg(target_arch = "wasm32")]
pub use component::*;

#[cfg(target_arch = "wasm32")]
mod component {
    pub use crate::raw::plugin::rivven::connect::log::log;
    pub use crate::raw::plugin::rivven::connect::metrics::{counter_add, gauge_set, histogram_record};
    pub use crate::raw::plugin::rivven::connect::source::{Batch, describe};
    pub use crate::raw::plugin::rivven::connect::state::{delete, get, set};
}
