//! What wit-bindgen makes of `wit/connect.wit`. Public only because [`export!`](crate::export) expands to it in
//! the plugin's crate; its names are no part of the SDK's interface.

#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::panic, reason = "generated code")]

/// The world `plugin`: all imports, and the export `transform`.
pub mod plugin {
    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_transform",
    });
}

/// The export `aggregate` alone. A plugin that holds messages exports this and the world `plugin`, which together are
/// the world `aggregating-plugin`, without generating everything a second time.
pub mod aggregate {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package rivven:plugin-sdk;
            world aggregation {
                export rivven:connect/aggregate@0.1.0;
            }
        ",
        with: { "rivven:connect/source@0.1.0": crate::raw::plugin::rivven::connect::source },
        pub_export_macro: true,
        export_macro_name: "export_aggregate",
    });
}
