//! Reads as streams.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::{Event, EventBatch, MqttSource};
use crate::error::MqttError;

/// A read that gives its handle back.
type Reading<T> = Pin<Box<dyn Future<Output = (MqttSource, Result<Option<T>, MqttError>)> + Send>>;

enum State<T> {
    Waiting(MqttSource),
    Reading(Reading<T>),
    Ended,
}

impl<T> State<T> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(MqttSource) -> Reading<T>,
    ) -> Poll<Option<Result<T, MqttError>>> {
        let mut reading = match std::mem::replace(self, State::Ended) {
            State::Waiting(source) => read(source),
            State::Reading(reading) => reading,
            State::Ended => return Poll::Ready(None),
        };
        let Poll::Ready((source, result)) = reading.as_mut().poll(cx) else {
            *self = State::Reading(reading);
            return Poll::Pending;
        };
        match result.transpose() {
            // The handle goes, and with it the acknowledgement that nobody can ask for any more.
            None => Poll::Ready(None),
            item => {
                *self = State::Waiting(source);
                Poll::Ready(item)
            }
        }
    }
}

/// See [`MqttSource::events`].
pub struct Events(State<Event>);

impl Events {
    pub(super) fn new(source: MqttSource) -> Self {
        Events(State::Waiting(source))
    }
}

impl Stream for Events {
    type Item = Result<Event, MqttError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx, |source| {
            Box::pin(async move {
                let event = source.read().await;
                (source, event)
            })
        })
    }
}

/// See [`MqttSource::batches`].
pub struct Batches(State<EventBatch>);

impl Batches {
    pub(super) fn new(source: MqttSource) -> Self {
        Batches(State::Waiting(source))
    }
}

impl Stream for Batches {
    type Item = Result<EventBatch, MqttError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let batch = ready!(self.0.poll(cx, |source| {
                Box::pin(async move {
                    let batch = source.read_batch().await;
                    (source, batch)
                })
            }));
            if !matches!(&batch, Some(Ok(batch)) if batch.is_empty()) {
                return Poll::Ready(batch);
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}
