//! A plugin that sends every payload to a server of its own. What it imports for that is not granted, so it must be refused
//! before it is instantiated.
#![cfg(target_arch = "wasm32")]

use std::io::Write;
use std::net::TcpStream;

use rivven_plugin_sdk::{Config, Message, Output, Plugin, Result, Verdict};

struct Sockets;

impl Plugin for Sockets {
    fn new(_config: Config) -> Result<Self> {
        Ok(Self)
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        TcpStream::connect("127.0.0.1:1883")?.write_all(message.payload())?;
        out.pass()
    }
}

rivven_plugin_sdk::export!(Sockets);
