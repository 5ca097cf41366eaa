//! The MQTT source as its documentation promises it, test by test under the names that are published there, against a real
//! mosquitto; the scripted broker and the cutting proxy stand in where a real broker does nothing of the kind on cue.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod churn;
mod infrastructure;
mod payloads;
mod qos;
mod running;
mod sessions;
mod settings;
mod source;
mod support;
mod topics;

/// A test with a published name: the harness would put the module in front of it.
macro_rules! published {
    ($($(#[$doc:meta])* $name:ident = $test:path;)*) => {
        $(
            $(#[$doc])*
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                $test().await;
            }
        )*
    };
}

// Infrastructure.
published! {
    /// Container lifecycle and connectivity.
    test_mqtt_container_starts = infrastructure::container_starts;
    /// Basic message flow.
    test_mqtt_publish_subscribe = infrastructure::publish_subscribe;
    /// Wildcards select.
    test_mqtt_wildcard_subscription = infrastructure::wildcard_subscription;
}

// The source.
published! {
    /// Each step of `check()`, passed and failed, and what it leaves behind.
    test_mqtt_source_check = source::check;
    /// The catalog.
    test_mqtt_source_discover = source::discover;
    /// `read()` gives what was published, and acknowledges no sooner than the next is asked for.
    test_mqtt_source_read = source::read_events;
    /// The counts are those of what happened.
    test_mqtt_source_metrics = running::metrics;
    /// DISCONNECT, no will, nothing left running.
    test_mqtt_source_shutdown = running::shutdown;
    /// 10,000 messages, complete.
    test_mqtt_high_throughput = running::high_throughput;
}

// Quality of service.
published! {
    /// At most once: nothing is acknowledged and nothing kept.
    test_mqtt_qos_0 = qos::at_most_once;
    /// At least once, though connections break.
    test_mqtt_qos_1 = qos::at_least_once;
    /// Exactly once, though connections break at every step of the handshake.
    test_mqtt_qos_2 = qos::exactly_once;
}

// Advanced features.
published! {
    /// The broker publishes the will.
    test_mqtt_last_will_config = sessions::last_will_config;
    /// Retained messages, and their flag.
    test_mqtt_retained_message = sessions::retained_message;
    /// What is published meanwhile waits; a session that is lost is made again.
    test_mqtt_persistent_session = sessions::persistent_session;
    /// `#` at every depth.
    test_mqtt_multi_level_wildcard = topics::multi_level_wildcard;
    /// `+` at every place.
    test_mqtt_single_level_wildcard_positions = topics::single_level_wildcard_positions;
}

// Edge cases.
published! {
    /// Topic names as strange as MQTT allows.
    test_mqtt_special_topic_names = topics::special_topic_names;
    /// Every byte arrives as it is.
    test_mqtt_binary_payload = payloads::binary;
    /// 64 KiB, 1 MiB, and more than is taken.
    test_mqtt_large_payload = payloads::large;
    /// 50 connections, nothing leaks.
    test_mqtt_connection_churn = churn::connection_churn;
    /// Every default, as a value and on the wire.
    test_mqtt_config_defaults = settings::config_defaults;
    /// Each wrong URL has its message.
    test_mqtt_invalid_broker_url = settings::invalid_broker_url;
    /// Snapshot, reset, and both at once.
    test_mqtt_metrics_snapshot_and_reset = running::metrics_snapshot_and_reset;
}
