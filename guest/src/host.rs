//! The boundary: in a component the host is what it imports, in a native test it is [`memory`](crate::memory). Nothing
//! else in the SDK knows on which side it runs.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::memory::*;
#[cfg(target_arch = "wasm32")]
pub(crate) use component::*;

#[cfg(target_arch = "wasm32")]
mod component {
    pub(crate) use crate::raw::plugin::rivven::connect::log::log;
    pub(crate) use crate::raw::plugin::rivven::connect::metrics::{counter_add, gauge_set, histogram_record};
    pub(crate) use crate::raw::plugin::rivven::connect::source::{Batch, describe};
    pub(crate) use crate::raw::plugin::rivven::connect::state::{delete, get, set};
}
