//! More of the same: the keys and values that users get wrong most.

/// Lines for `config` of a single source, from line 6 on, and what is said about them.
pub const WRONG_VALUES: &[(&str, &str)] = &[
    ("  qos: ~\n", "6:8: config.qos: is empty (expected text)"),
    (
        "  qos: ${TOKEN}\n",
        "6:8: config.qos: is the text of a variable (expected at_most_once, at_least_once or exactly_once)",
    ),
    ("  mqtt_version: v3\n", "6:17: config.mqtt_version: is `v3` (expected 3.1.1 or 5.0)"),
    ("  mqtt_version: 6\n", "6:17: config.mqtt_version: is `6` (expected 3.1.1 or 5.0)"),
    ("  retained: none\n", "6:13: config.retained: is `none` (expected all, new_only or skip)"),
    ("  keep_alive_secs: 4\n", "6:20: config.keep_alive_secs: is `4` (expected an integer from 5 to 65535)"),
    (
        "  keep_alive_secs: 60s\n",
        "6:20: config.keep_alive_secs: is `60s` (expected an integer from 5 to 65535)",
    ),
    (
        "  connect_timeout_secs: 301\n",
        "6:25: config.connect_timeout_secs: is `301` (expected an integer from 1 to 300)",
    ),
    (
        "  retry_max_ms: 99\n  retry_initial_ms: 10\n",
        "6:17: config.retry_max_ms: is `99` (expected an integer from 100 to 300000)",
    ),
    (
        "  retry_max_ms: 300001\n",
        "6:17: config.retry_max_ms: is `300001` (expected an integer from 100 to 300000)",
    ),
    (
        "  retry_multiplier: 10.5\n",
        "6:21: config.retry_multiplier: is `10.5` (expected a number from 1.0 to 10.0)",
    ),
    (
        "  retry_multiplier: .inf\n",
        "6:21: config.retry_multiplier: is `.inf` (expected a number from 1.0 to 10.0)",
    ),
    (
        "  max_reconnect_attempts: never\n",
        "6:27: config.max_reconnect_attempts: is `never` (expected an integer from 0 to 4294967295)",
    ),
    (
        "  empty_poll_delay_ms: 0\n",
        "6:24: config.empty_poll_delay_ms: is `0` (expected an integer from 1 to 60000)",
    ),
    (
        "  max_inflight: 65536\n",
        "6:17: config.max_inflight: is `65536` (expected an integer from 1 to 65535)",
    ),
    (
        "  max_packet_size: 268435461\n",
        "6:20: config.max_packet_size: is `268435461` (expected an integer from 1024 to 268435460)",
    ),
    ("  parse_json_payload: 1\n", "6:23: config.parse_json_payload: is `1` (expected true or false)"),
    (
        "  include_metadata: \"false\"\n",
        "6:21: config.include_metadata: is the text `false` (expected true or false)",
    ),
    (
        "  last_will: {topic: a, qos: 7}\n",
        "6:30: config.last_will.qos: is `7` (expected at_most_once, at_least_once or exactly_once)",
    ),
    (
        "  last_will: {topic: a, retain: maybe}\n",
        "6:33: config.last_will.retain: is `maybe` (expected true or false)",
    ),
    ("  last_will: {topic: ''}\n", "6:22: config.last_will.topic: a topic name is not empty"),
    (
        "  tls: {insecure_skip_verify: 'no'}\n",
        "6:31: config.tls.insecure_skip_verify: is the text `no` (expected true or false)",
    ),
    ("  tls: {ca: ca.pem}\n", "6:9: config.tls.ca: is no key of this section (did you mean ca_cert?)"),
    ("  client_id: a\n  client_id: b\n", "7:3: config.client_id: is given twice (first in line 6)"),
];

/// Values of `broker_url` of a single source, and what is said about them; none shows the value, which may hold a password.
pub const WRONG_URLS: &[(&str, &str)] = &[
    ("mqtt://u:p@h", "holds a user name or a password (put them under `auth`, as username and password)"),
    ("mqtt://", "has no host (expected HOST:PORT)"),
    ("mqtt://h:0", "has an illegal port (expected 1 to 65535)"),
    ("mqtt://h:65536", "has an illegal port (expected 1 to 65535)"),
    ("mqtt://h:mqtt", "has an illegal port (expected 1 to 65535)"),
    (
        "mqtt://::1",
        "has more than one colon (expected HOST:PORT; an IPv6 address needs brackets: [::1]:1883)",
    ),
    ("mqtt://[::1", "has `[` without `]`"),
    ("mqtt://a b", "has a host that is neither a DNS name nor an address"),
];

/// Topic filters of a single source, and the rule that each breaks.
pub const WRONG_FILTERS: &[(&str, &str)] = &[
    ("a/#/b", "# must be the last level"),
    ("#/a", "# must be the last level"),
    ("a#", "# must be a level of its own, not part of `a#`"),
    ("a/b#", "# must be a level of its own, not part of `b#`"),
    ("a+/b", "+ must be a level of its own, not part of `a+`"),
    ("a/+b", "+ must be a level of its own, not part of `+b`"),
    ("", "a topic filter is not empty"),
    ("$share/g", "a shared subscription is $share/GROUP/FILTER; there is no filter"),
    ("$share/g/", "a shared subscription is $share/GROUP/FILTER; the filter is empty"),
    ("$share/+/a", "the group of a shared subscription is at least one character, without + and #"),
    ("$share//a", "the group of a shared subscription is at least one character, without + and #"),
];
