//! Write plugins for `rivven-mqtt`: WebAssembly components that filter, transform or aggregate MQTT messages on their way
//! to Rivven topics.
//!
//! # A plugin in five minutes
//!
//! ```sh
//! rustup target add wasm32-wasip2
//! cargo new --lib my-filter && cd my-filter
//! ```
//!
//! A plugin is a `cdylib` crate. In `Cargo.toml`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! rivven-plugin-sdk = { path = "../rivven-mqtt/guest" }
//! serde = { version = "1", features = ["derive"] }
//!
//! [profile.release]
//! lto = true
//! panic = "abort"
//! ```
//!
//! All of `src/lib.rs`, for a plugin that drops temperatures under a threshold:
//!
//! ```
//! use rivven_plugin_sdk::{Config, Message, Output, Plugin, Result, Verdict};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Filter {
//!     threshold: f64,
//! }
//!
//! impl Plugin for Filter {
//!     fn new(config: Config) -> Result<Self> {
//!         config.parse()
//!     }
//!
//!     fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
//!         if !message.topic().ends_with("/temperature") {
//!             return out.pass();
//!         }
//!         let celsius: f64 = message.json()?;
//!         if celsius < self.threshold { out.drop() } else { out.pass() }
//!     }
//! }
//!
//! rivven_plugin_sdk::export!(Filter);
//!
//! // And a test, for which `cargo test` is enough:
//! # fn main() {
//! use rivven_plugin_sdk::testing::{Decision, Harness};
//!
//! let mut filter = Harness::<Filter>::new(r#"{"threshold": 20}"#).unwrap();
//! assert_eq!(filter.process("room/1/temperature", "19.5"), Decision::Drop);
//! assert_eq!(filter.process("room/1/temperature", "20.5"), Decision::Pass);
//! assert_eq!(filter.process("room/1/door", "open"), Decision::Pass);
//! assert!(matches!(filter.process("room/1/temperature", "warm"), Decision::Reject(_)));
//! # }
//! ```
//!
//! Build it, and name it in the configuration of `rivven-mqtt`:
//!
//! ```sh
//! cargo build --target wasm32-wasip2 --release
//! ```
//!
//! ```yaml
//! plugin:
//!   path: target/wasm32-wasip2/release/my_filter.wasm
//!   config: { threshold: 20 }
//! ```
//!
//! (`cargo component build --target wasm32-wasip1 --release` works as well, on the same crate.)
//!
//! # Verdicts
//!
//! [`Plugin::process`] decides about one message by calling one method of [`Output`] last, and returning what it returns:
//!
//! | | the message is | and acknowledged when |
//! |---|---|---|
//! | [`pass`](Output::pass) | written unchanged | it is committed |
//! | [`drop`](Output::drop) | not written | at once |
//! | [`emit`](Output::emit), [`records`](Output::records) | replaced by one record, by any number | all are committed |
//! | [`reject`](Output::reject), or `?` on any error | sent to the dead-letter topic, with the reason | that is committed |
//! | [`hold`](Output::hold) | kept by an [`AggregatingPlugin`] | the records of a later `flush` are committed |
//!
//! A record has the destination and the key that the source gives the message, unless it is a [`Record`] that sets its own.
//! Its value is bytes, text, or [`Json`]:
//!
//! ```
//! # use rivven_plugin_sdk::{Message, Output, Result, Verdict};
//! use rivven_plugin_sdk::{Json, Record};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, Serialize)]
//! struct Reading {
//!     device: String,
//!     celsius: f64,
//! }
//!
//! /// `process` of a plugin that takes arrays of readings apart.
//! fn process(message: Message, out: Output) -> Result<Verdict> {
//!     let readings: Vec<Reading> = message.json()?;
//!     let mut records = out.records();
//!     for reading in &readings {
//!         records.emit(Record::new(Json(reading)).key(&reading.device).topic("celsius"))?;
//!     }
//!     records.done()
//! }
//! ```
//!
//! # Aggregates
//!
//! A plugin that holds messages implements [`AggregatingPlugin`] too, ends with `out.hold(self)`, and is exported with
//! `export!(aggregating Mean)`:
//!
//! ```
//! use rivven_plugin_sdk::{AggregatingPlugin, Config, Message, Output, Plugin, Records, Result, Verdict};
//!
//! /// The mean of all messages since the last flush.
//! #[derive(Default)]
//! struct Mean {
//!     sum: f64,
//!     count: u64,
//! }
//!
//! impl Plugin for Mean {
//!     fn new(_config: Config) -> Result<Self> {
//!         Ok(Self::default())
//!     }
//!
//!     fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
//!         self.sum += message.text()?.parse::<f64>()?;
//!         self.count += 1;
//!         out.hold(self)
//!     }
//! }
//!
//! impl AggregatingPlugin for Mean {
//!     fn flush(&mut self, records: &mut Records) -> Result<()> {
//!         let Self { sum, count } = std::mem::take(self);
//!         records.emit((sum / count as f64).to_string())
//!     }
//! }
//!
//! rivven_plugin_sdk::export!(aggregating Mean);
//! ```
//!
//! # Faults
//!
//! A panic, an endless loop, or more memory than is allowed is a fault: the instance and all it held is thrown away, a fresh
//! one is started, and the messages are offered again one by one, so that only the one at fault is taken out. A plugin may
//! therefore see a message twice, and whatever it remembers must survive being forgotten; [`state`] is kept.
//! What it prints, panics included, appears in the log of the host; so does [`log`]. [`metrics`] appear at `/metrics`.
//!
//! # Speed
//!
//! Passing, dropping and emitting what is there already allocates nothing per message. Payloads, delivery flags and times are
//! fetched from the host when a message is first asked for them, once for all messages that arrived together. To parse only
//! the fields that are needed into a struct that borrows (`&str`, `Cow<str>`) is several times as fast as into
//! `serde_json::Value`.
//!
//! The contract under this crate is `wit/connect.wit`; none of its names is needed here. The feature `json`, on by default,
//! brings [`Config::parse`], [`Message::json`] and [`Json`].

mod column;
mod config;
mod error;
mod host;
#[cfg(not(target_arch = "wasm32"))]
mod memory;
mod message;
mod output;
#[doc(hidden)]
pub mod raw;
#[doc(hidden)]
pub mod runtime;
mod services;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use error::{Error, Result};
pub use message::Message;
#[cfg(feature = "json")]
pub use output::Json;
pub use output::{Emit, Output, Record, Records, Value, Verdict};
#[doc(inline)]
pub use raw::plugin::rivven::connect::source::{Description, Properties, Qos};
pub use services::{log, metrics, state};

/// What becomes of messages, one at a time. See the [crate's documentation](crate) for a complete one.
pub trait Plugin: Sized {
    /// Starts the plugin with its `config:`. Called once, before anything else.
    ///
    /// # Errors
    /// The configuration is wrong. The host shows the error to the operator and processes nothing.
    fn new(config: Config<'_>) -> Result<Self>;

    /// Decides about one message. Messages come in the order in which they were received.
    ///
    /// # Errors
    /// An error rejects the message: it goes to the dead-letter topic with the error as the reason.
    fn process(&mut self, message: Message<'_>, out: Output<'_>) -> Result<Verdict>;
}

/// A plugin that also holds messages and gives them back as aggregates. Exported with `export!(aggregating ...)`.
pub trait AggregatingPlugin: Plugin {
    /// Gives back everything that is held, as records, and forgets it. Called on the configured interval, when the window
    /// of unacknowledged messages is nearly full, and before shutdown; not while nothing is held. What was held until now
    /// is acknowledged when these records are committed.
    ///
    /// Where the source's destination is built from the MQTT topic, each record must name its own with [`Record::topic`].
    ///
    /// # Errors
    /// An error is a fault, like a panic: the plugin starts anew, and what was held is offered again.
    fn flush(&mut self, records: &mut Records<'_>) -> Result<()>;
}

/// What the messages come from: connector, client, broker and subscriptions.
pub fn describe() -> Description {
    host::describe()
}

/// Makes a type the plugin of this component: `export!(MyPlugin)`, or `export!(aggregating MyPlugin)` for an
/// [`AggregatingPlugin`].
///
/// Once in a crate of type `cdylib`. Where the target is not WebAssembly it only checks the type, so that tests run
/// natively.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        // Two traits would apply to a type that holds messages, and nothing would ever flush them: it does not compile.
        const _: fn() = || {
            trait ExportAsAggregating<Held> {
                fn plugin() {}
            }
            struct Holds;
            impl<P: $crate::Plugin> ExportAsAggregating<()> for P {}
            impl<P: $crate::AggregatingPlugin> ExportAsAggregating<Holds> for P {}
            <$plugin as ExportAsAggregating<_>>::plugin()
        };
        $crate::__export!($plugin);
    };
    (aggregating $plugin:ty) => {
        const _: fn() = || {
            fn plugin<P: $crate::AggregatingPlugin>() {}
            plugin::<$plugin>()
        };
        $crate::__export!($plugin, {
            impl $crate::raw::aggregate::exports::rivven::connect::aggregate::Guest for Component {
                fn flush() -> $crate::raw::aggregate::exports::rivven::connect::aggregate::Outputs {
                    PLUGIN.with($crate::runtime::Slot::flush)
                }
            }
            $crate::raw::aggregate::export_aggregate!(Component with_types_in $crate::raw::aggregate);
        });
    };
}

/// The exports of a component. Not in a native build, whose linker knows no such names.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty $(, { $($aggregate:tt)* })?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static PLUGIN: $crate::runtime::Slot<$plugin> = const { $crate::runtime::Slot::empty() };
            }
            struct Component;
            impl $crate::raw::plugin::exports::rivven::connect::transform::Guest for Component {
                fn init(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    PLUGIN.with(|plugin| plugin.init(&config))
                }
                fn process(
                    batch: &$crate::raw::plugin::rivven::connect::source::Batch,
                ) -> $crate::raw::plugin::exports::rivven::connect::transform::Results {
                    PLUGIN.with(|plugin| plugin.process(batch))
                }
            }
            $crate::raw::plugin::export_transform!(Component with_types_in $crate::raw::plugin);
            $($($aggregate)*)?
        };
    };
}
