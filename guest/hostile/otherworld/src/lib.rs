//! A component made for another host: it exports nothing that ours calls, so it must be refused when it is loaded.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "generated code")]

wit_bindgen::generate!({
    inline: "
        package elsewhere:plugin;
        world other {
            export greet: func(name: string) -> string;
        }
    ",
});

struct Other;

impl Guest for Other {
    fn greet(name: String) -> String {
        format!("hello, {name}")
    }
}

export!(Other);
