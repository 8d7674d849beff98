# One of three servers, as /etc/weft/server.hcl; `weft server --help` explains the settings.
node             = "s1"
bind             = "10.0.0.1"
bootstrap_expect = 3
retry_join       = ["10.0.0.1:8301", "10.0.0.2:8301", "10.0.0.3:8301"]
cluster_key_file = "/etc/weft/cluster.key"
