//! Components that no compiler makes: attacks on what a plugin gives to the host, on the host's calls back into it, and on its
//! compiler. They are put together as WebAssembly text, around the plugin of `raw.wat`.

use std::fmt::Write as _;

use anyhow::{Context, Result};

/// What the plugin does with a batch in which a payload has an exclamation mark; all other messages pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// 4,294,967,295 verdicts.
    HugeList,
    /// 20,000 reasons of 512 KiB, all of them in the same place.
    AliasedList,
    /// One output of 1 GiB, from memory that it has.
    GiantOutput,
    /// Traps when the host asks for room in its memory, or gives it room outside of that.
    ReallocTrap,
    /// As [`ReallocTrap`](Self::ReallocTrap), but with an address beyond its memory.
    ReallocOutside,
    /// Traps after the host has taken the results.
    PostReturnTrap,
    /// Keeps the handle of the batch.
    KeptHandle,
    /// Asks a batch for its payloads whose handle it has dropped.
    DroppedHandle,
    /// Takes handles and drops none.
    Handles,
    /// Asks for 64 MiB of random bytes.
    Random,
}

/// What stands in the places of `raw.wat`.
#[derive(Debug, Default)]
struct Parts {
    imports: &'static str,
    realloc: &'static str,
    lowered: &'static str,
    provided: &'static str,
    imported: &'static str,
    process: &'static str,
    post: &'static str,
    instances: String,
}

impl Attack {
    /// All of them, each with a name for a source and a topic.
    pub const ALL: [(Self, &str); 10] = [
        (Attack::HugeList, "huge-list"),
        (Attack::AliasedList, "aliased-list"),
        (Attack::GiantOutput, "giant-output"),
        (Attack::ReallocTrap, "realloc-trap"),
        (Attack::ReallocOutside, "realloc-outside"),
        (Attack::PostReturnTrap, "post-return-trap"),
        (Attack::KeptHandle, "kept-handle"),
        (Attack::DroppedHandle, "dropped-handle"),
        (Attack::Handles, "handles"),
        (Attack::Random, "random"),
    ];

    /// The payload that makes the plugin attack.
    pub fn payload(self) -> String {
        match self {
            // The allocator knows the batch by its size.
            Attack::ReallocTrap | Attack::ReallocOutside => "!".repeat(5_000),
            _ => "!".to_owned(),
        }
    }

    /// The component.
    pub fn component(self) -> Result<Vec<u8>> {
        let parts = match self {
            Attack::HugeList => {
                Parts { process: "(i32.store (i32.const 2052) (i32.const -1))", ..Parts::default() }
            }
            Attack::AliasedList => Parts {
                process: "
                    (local.set $at (i32.const 100000))
                    (loop $fill
                        (i32.store offset=4 (local.get $at) (i32.const 400000))
                        (i32.store offset=8 (local.get $at) (i32.const 524288))
                        (local.set $at (i32.add (local.get $at) (i32.const 12)))
                        (br_if $fill (i32.lt_u (local.get $at) (i32.const 340000))))
                    (i32.store (i32.const 2112) (i32.const 100000))
                    (i32.store (i32.const 2116) (i32.const 20000))",
                ..Parts::default()
            },
            Attack::GiantOutput => Parts {
                process: "
                    (if (i32.eq (memory.grow (i32.const 16384)) (i32.const -1)) (then unreachable))
                    (i32.store (i32.const 2096) (i32.const 1048576))
                    (i32.store (i32.const 2100) (i32.const 1073741824))",
                ..Parts::default()
            },
            Attack::ReallocTrap => Parts {
                realloc: "(if (i32.gt_u (local.get $new) (i32.const 4096)) (then unreachable))",
                ..Parts::default()
            },
            Attack::ReallocOutside => Parts {
                realloc: "(if (i32.gt_u (local.get $new) (i32.const 4096)) (then (return (i32.const -64))))",
                ..Parts::default()
            },
            Attack::PostReturnTrap => Parts {
                process: "(i32.store (i32.const 2500) (i32.const 1))",
                post: "(if (i32.load (i32.const 2500)) (then unreachable))",
                ..Parts::default()
            },
            Attack::KeptHandle => Parts { process: "(return (i32.const 2048))", ..Parts::default() },
            Attack::DroppedHandle => Parts {
                process: "
                    (call $drop-batch (local.get $batch))
                    (call $payloads (local.get $batch) (i32.const 2560))",
                ..Parts::default()
            },
            Attack::Handles => Parts {
                imports: r#"
                    (import "wasi:io/streams@0.2.0" (instance $streams
                        (export "output-stream" (type (sub resource)))))
                    (alias export $streams "output-stream" (type $stream))
                    (import "wasi:cli/stdout@0.2.0" (instance $stdout
                        (export "output-stream" (type $its-stream (eq $stream)))
                        (export "get-stdout" (func (result (own $its-stream))))))"#,
                lowered: r#"(core func $attack (canon lower (func $stdout "get-stdout")))"#,
                provided: r#"(export "attack" (func $attack))"#,
                imported: r#"(import "host" "attack" (func $attack (result i32)))"#,
                process: "(loop $again (drop (call $attack)) (br $again))",
                ..Parts::default()
            },
            Attack::Random => Parts {
                imports: r#"
                    (import "wasi:random/random@0.2.0" (instance $random
                        (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#,
                lowered: r#"
                    (core func $attack
                        (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))"#,
                provided: r#"(export "attack" (func $attack))"#,
                imported: r#"(import "host" "attack" (func $attack (param i64 i32)))"#,
                process: "(call $attack (i64.const 67108864) (i32.const 2816))",
                ..Parts::default()
            },
        };
        parts.component()
    }
}

impl Parts {
    fn component(&self) -> Result<Vec<u8>> {
        let text = include_str!("raw.wat");
        let places = [
            ("imports", self.imports),
            ("realloc", self.realloc),
            ("lowered", self.lowered),
            ("provided", self.provided),
            ("imported", self.imported),
            ("process", self.process),
            ("post", self.post),
            ("instances", &self.instances),
        ];
        let text = places
            .iter()
            .fold(text.to_owned(), |text, (place, part)| text.replace(&format!("{{{{{place}}}}}"), part));
        wat::parse_str(text).context("raw.wat is wrong")
    }
}

/// A plugin that attacks nobody.
pub fn honest() -> Result<Vec<u8>> {
    Parts::default().component()
}

/// A plugin that wants to make HTTP requests.
pub fn http() -> Result<Vec<u8>> {
    let imports = r#"(import "wasi:http/outgoing-handler@0.2.6" (instance))"#;
    Parts { imports, ..Parts::default() }.component()
}

/// A plugin that is made of `count` instances of a core module, each with a memory of its own if so told.
pub fn instances(count: usize, with_memory: bool) -> Result<Vec<u8>> {
    let memory = if with_memory { "(memory 0)" } else { "" };
    let mut instances = format!("(core module $small {memory})");
    for _ in 0..count {
        instances.push_str("(core instance (instantiate $small))");
    }
    Parts { instances, ..Parts::default() }.component()
}

/// A plugin of a few megabytes that takes minutes to compile: functions with 20,000 branches, at each of which 2,000 variables
/// are alive. One of them takes about 15 s.
pub fn compile_bomb(functions: usize) -> Result<Vec<u8>> {
    const VARIABLES: usize = 2_000;
    let variables = "i32 ".repeat(VARIABLES);
    let mut code = format!("(func (param i32) (local {variables})");
    for n in 0..20_000 {
        let [condition, target, one, other] = [1, 7, 13, 3].map(|step| n * step % VARIABLES);
        // Writing to a string cannot fail.
        let _ = write!(
            code,
            "(block (br_if 0 (local.get {condition}))
                (local.set {target} (i32.add (local.get {one}) (local.get {other}))))"
        );
    }
    code.push(')');
    Parts { instances: format!("(core module {})", code.repeat(functions)), ..Parts::default() }.component()
}
