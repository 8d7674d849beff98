# An agent's settings and the services that it stands beside; `weft agent --help` explains both, `weft validate /etc/weft`
# checks them. `weft join` writes what a join token says to join.hcl beside this file, so that nothing here has to change.
#
# node            = "vm-1"
# servers         = ["10.0.0.1:8300", "10.0.0.2:8300", "10.0.0.3:8300"]
# join_token_file = "/etc/weft/join-token"
#
# service {
#   name = "web"
#   port = 8080
#   connect { sidecar_service { proxy { upstreams = [{ destination_name = "api", local_bind_port = 9191 }] } } }
# }
