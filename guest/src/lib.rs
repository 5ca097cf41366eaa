//! x
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

pub use config::Config;
pub use error::{Error, Result};
pub use message::Message;
#[cfg(feature = "json")]
pub use output::Json;
pub use output::{Emit, Output, Record, Records, Value, Verdict};
#[doc(inline)]
pub use raw::plugin::rivven::connect::source::{Description, Properties, Qos};
pub use services::{log, metrics, state};

/// A plugin.
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
