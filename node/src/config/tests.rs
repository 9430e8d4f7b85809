use super::*;

fn invoke(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Refusal> {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Invocation::parse(&args, &env)
}

fn config(args: &[&str]) -> Config {
    match invoke(args, &[]) {
        Ok(Invocation::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn refusal(args: &[&str], env: &[(&str, &str)]) -> (u8, String) {
    let refusal = invoke(args, env).expect_err("the command line must be refused");
    (refusal.exit_code, refusal.message)
}

#[test]
fn without_flags_a_single_member_has_etcds_ids_and_ports() {
    let config = config(&[]);
    // What a real etcd started without flags calls itself.
    assert_eq!((config.member.0, config.cluster.0), (0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32));
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(config.listen_client_urls[0].to_string(), "http://localhost:2379");
    assert_eq!(config.initial_cluster.len(), 1);
    assert_eq!(config.quota_bytes, Some(QUOTA_BYTES_DEFAULT));
    assert_eq!(config.progress_interval, Duration::from_secs(600));
    assert_eq!(config.warnings.len(), 1, "the default name is warned about");
}

#[test]
fn flags_are_written_in_all_of_gos_ways_and_the_last_wins() {
    let config = config(&["--name", "a", "-name=b", "-heartbeat-interval", "50", "--election-timeout=500"]);
    assert_eq!(config.name, "b");
    assert_eq!((config.heartbeat.as_millis(), config.election_timeout.as_millis()), (50, 500));
    assert_eq!(config.initial_cluster[0].name, "b", "the name alone rewrites the default cluster");
    assert_eq!(config.data_dir, PathBuf::from("b.etcd"));
    assert_eq!(invoke(&["--version"], &[]), Ok(Invocation::Version));
    assert_eq!(invoke(&["-h"], &[]), Ok(Invocation::Help));
    assert!(matches!(invoke(&["--version=false"], &[]), Ok(Invocation::Serve(_))));
}

#[test]
fn three_members_derive_the_same_cluster() {
    let cluster = "c=http://127.0.0.1:3,a=http://127.0.0.1:1,b=http://127.0.0.1:2";
    let of = |name: &str, port: u8| {
        let peer = format!("http://127.0.0.1:{port}");
        config(&["--name", name, "--initial-cluster", cluster, "--initial-advertise-peer-urls", &peer])
    };
    let (a, b) = (of("a", 1), of("b", 2));
    assert_eq!(a.cluster, b.cluster);
    assert_eq!(a.initial_cluster, b.initial_cluster);
    assert_ne!(a.member, b.member);
    assert!(a.initial_cluster.is_sorted_by_key(|member| member.id));
    let other = config(&["--initial-cluster-token", "x"]);
    assert_ne!(other.cluster, config(&[]).cluster);
}

#[test]
fn a_command_line_that_cannot_be_parsed_exits_2() {
    let text = |args: &[&str]| {
        let (code, text) = refusal(args, &[]);
        assert_eq!(code, 2, "{text}");
        text
    };
    assert_eq!(text(&["--nope"]), "flag provided but not defined: -nope");
    assert_eq!(text(&["--experimental-x=1"]), "flag provided but not defined: -experimental-x");
    assert_eq!(text(&["--name"]), "flag needs an argument: -name");
    assert_eq!(text(&["---name"]), "bad flag syntax: ---name");
    assert_eq!(text(&["--max-txn-ops=-1"]), "invalid value \"-1\" for flag -max-txn-ops: parse error");
    assert_eq!(text(&["--version=maybe"]), "invalid boolean value \"maybe\" for -version: parse error");
    assert_eq!(
        text(&["--initial-cluster-state", "old"]),
        "invalid value \"old\" for flag -initial-cluster-state: invalid value \"old\""
    );
    assert_eq!(
        text(&["--listen-client-urls", "localhost:1"]),
        "invalid value \"localhost:1\" for flag -listen-client-urls: \
         URL scheme must be http, https, unix, or unixs: localhost:1"
    );
}

#[test]
fn a_configuration_that_cannot_be_served_exits_1() {
    let text = |args: &[&str]| {
        let (code, text) = refusal(args, &[]);
        assert_eq!(code, 1, "{text}");
        text
    };
    assert_eq!(text(&["serve"]), "\"serve\" is not a valid flag");
    assert_eq!(
        text(&["--listen-client-urls", "http://127.0.0.1:1"]),
        "--advertise-client-urls is required when --listen-client-urls is set explicitly"
    );
    assert_eq!(
        text(&["--listen-peer-urls", "http://example.com:1"]),
        "expected IP in URL for binding (http://example.com:1)"
    );
    assert_eq!(
        text(&["--election-timeout", "400"]),
        "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"
    );
    assert_eq!(
        text(&["--election-timeout", "50001"]),
        "--election-timeout[50001ms] is too long, and should be set less than 50000ms"
    );
    assert_eq!(text(&["--heartbeat-interval", "0"]), "--heartbeat-interval must be >0 (set to 0ms)");
    assert_eq!(
        text(&["--name", "x", "--initial-cluster", "a=http://127.0.0.1:1"]),
        "couldn't find local name \"x\" in the initial cluster configuration"
    );
    assert_eq!(
        text(&["--initial-cluster", "default=http://127.0.0.1:1"]),
        "--initial-cluster has default=http://127.0.0.1:1 but missing from \
         --initial-advertise-peer-urls=http://localhost:2380"
    );
    assert_eq!(text(&["--auto-tls"]), "--auto-tls=true is not supported by this version");
    assert_eq!(
        text(&["--listen-peer-urls", "https://127.0.0.1:1"]),
        "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented"
    );
    assert!(text(&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]).starts_with("min version (TLS1.3)"));
    assert_eq!(text(&["--tls-min-version=TLS1.1"]), "unexpected TLS version \"TLS1.1\"");
    assert!(text(&["--initial-cluster", "a"]).contains("empty URL or name"));
    assert!(text(&["--initial-cluster", "a=http://h:1,b=http://h:1"]).contains("duplicate URLs"));
}

#[test]
fn the_environment_fills_in_but_never_contradicts() {
    let named = |args: &[&str], env: &[(&str, &str)]| match invoke(args, env) {
        Ok(Invocation::Serve(config)) => *config,
        other => panic!("{other:?}"),
    };
    let config = named(&[], &[("ETCD_NAME", "e"), ("ETCD_MAX_TXN_OPS", "7"), ("ETCD_DATA_DIR", ""), ("HOME", "/")]);
    assert_eq!((config.name.as_str(), config.limits.txn_ops_max), ("e", 7));
    assert!(config.warnings.is_empty());
    let config = named(&["--name=n"], &[("ETCD_NOPE", "1"), ("ETCD_VERSION", "3"), ("ETCD_MAX_WALS", "9")]);
    assert_eq!(
        config.warnings,
        ["unrecognized environment variable ETCD_NOPE=1", "--max-wals has no effect on this server"]
    );
    let (code, text) = refusal(&["--name=n"], &[("ETCD_NAME", "n")]);
    assert_eq!(code, 1);
    assert!(text.starts_with("conflicting environment variable ETCD_NAME is shadowed"), "{text}");
    assert_eq!(refusal(&[], &[("ETCD_MAX_TXN_OPS", "x")]).0, 1);
}

#[test]
fn certificates_without_https_are_warned_about() {
    let config = config(&["--name=n", "--cert-file=c", "--key-file=k", "--peer-client-cert-auth"]);
    assert_eq!(
        config.warnings,
        [
            "key and cert files are present and ignored: http://localhost:2379 is no https URL",
            "--peer-client-cert-auth is ignored: http://localhost:2380 is no https URL"
        ]
    );
    assert_eq!(config.client_tls.files.cert, Some("c".into()));
    assert!(config.peer_tls.client_cert_auth && !config.client_tls.client_cert_auth);
}

#[test]
fn the_edge_is_tuned_by_etcds_flags() {
    let config = config(&[
        "--name=n",
        "--listen-client-http-urls=http://127.0.0.1:1,http://127.0.0.1:2",
        "--enable-grpc-gateway=false",
        "--cors=http://a,http://b",
        "--grpc-keepalive-interval=0s",
        "--grpc-keepalive-min-time=1s",
        "--max-concurrent-streams=7",
        "--metrics=extensive",
    ]);
    assert_eq!(config.metrics, Detail::Extensive);
    let never_gone = self::config(&["--name=n", "--grpc-keepalive-timeout=0s"]).tuning;
    assert_eq!(never_gone.ping_interval, None, "etcd pings only if it also waits for the answer");
    assert_eq!((config.listen_client_http_urls.len(), config.listen_metrics_urls.len()), (2, 0));
    let Plain { gateway, access: Access { origins, hosts } } = config.plain;
    assert_eq!(
        (gateway, origins, hosts),
        (false, vec!["http://a".to_owned(), "http://b".to_owned()], vec!["*".to_owned()])
    );
    let Tuning { streams_max, ping_interval, ping_timeout, client_ping_min, share } = config.tuning;
    assert_eq!(share, Share::Clients, "no client can take the files that others need");
    assert_eq!((streams_max, ping_interval, ping_timeout), (7, None, Duration::from_secs(20)));
    assert_eq!(client_ping_min, Some(Duration::from_secs(1)));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let (code, text) = refusal(&["--listen-metrics-urls=https://127.0.0.1:1"], &[]);
    assert_eq!(code, 1);
    assert!(text.ends_with("must be provided for client url https://127.0.0.1:1 with HTTPS scheme"), "{text}");
}

#[test]
fn durations_are_gos() {
    let of = |text: &str| invoke(&["--name=n", "--watch-progress-notify-interval", text], &[]);
    let interval = |text: &str| match of(text) {
        Ok(Invocation::Serve(config)) => config.progress_interval,
        other => panic!("{other:?}"),
    };
    assert_eq!(interval("1h30m"), Duration::from_secs(5400));
    assert_eq!(interval("250ms"), Duration::from_millis(250));
    assert_eq!(interval("1.5s"), Duration::from_millis(1500));
    assert_eq!(interval(".5h1m"), Duration::from_secs(1860));
    assert_eq!(interval("1ms"), Duration::from_millis(100), "the least there is");
    for bad in ["", "5", "5x", "-1s", "s", "1.5", "1..5s"] {
        assert_eq!(of(bad).expect_err("refused").exit_code, 2, "{bad:?}");
    }
}
