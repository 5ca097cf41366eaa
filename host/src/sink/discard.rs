//! The sink that writes nothing: for measuring what comes before it.

use std::future::{Future, ready};
use std::pin::Pin;

use super::Sink;
use crate::delivery::Delivery;
use crate::error::SinkError;
use crate::status::{Part, Status};

/// Settles every delivery at once.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discard;

impl Sink for Discard {
    fn deliver(&self, delivery: Delivery) -> Result<(), SinkError> {
        delivery.settle();
        Ok(())
    }

    fn attach(&self, status: Status) {
        status.ready(Part::Sink);
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(ready(()))
    }
}
