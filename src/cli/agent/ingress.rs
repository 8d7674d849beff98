//! What an agent's files say of load balancers: the `ingress` blocks.

use std::collections::{BTreeMap, BTreeSet};

use agent::{AddressRange, Ingress, IngressListener};
use catalog::http::NormalPath;
use catalog::{Namespace, ServiceKey, ServiceName};
use wire::decode::{DecodeError, Fields};

/// Reads the blocks, each of a listener of its own.
pub(super) fn read(fields: &mut Fields) -> Result<Vec<IngressListener>, DecodeError> {
    let listeners = fields.objects("ingress", read_one)?;
    let mut ports = BTreeMap::new();
    for listener in &listeners {
        if let Some(other) = ports.insert(listener.port, &listener.ingress.source) {
            let reason = format!("port {} is that of `{other}` already; give each its own", listener.port);
            return Err(fields.refuse("ingress", reason));
        }
    }
    Ok(listeners)
}

fn read_one(fields: &mut Fields) -> Result<IngressListener, DecodeError> {
    let namespace: Namespace = agent::INGRESS_NAMESPACE.parse().map_err(|error| fields.refuse("name", error))?;
    let source = ServiceKey::new(namespace, fields.required::<ServiceName>("name")?);
    let service = ServiceKey::new(fields.parsed("namespace")?.unwrap_or_default(), fields.required("service")?);
    let port = fields.port("port")?;
    if port == 0 {
        return Err(DecodeError::Missing { path: fields.path_to("port") });
    }
    let from: Vec<AddressRange> = fields.parsed_list("from")?;
    if from.is_empty() {
        return Err(DecodeError::Missing { path: fields.path_to("from") });
    }
    let health_check_paths: BTreeSet<String> = fields.texts("health_check_paths")?.into_iter().collect();
    for path in &health_check_paths {
        let normal = NormalPath::of(path).map_err(|error| fields.refuse("health_check_paths", error))?;
        if normal.as_str() != path {
            let reason = format!("`{}` never arrives like that; write `{}`", path.escape_debug(), normal.as_str());
            return Err(fields.refuse("health_check_paths", reason));
        }
    }
    let ingress = Ingress {
        source,
        service,
        from,
        forwarded_from: fields.parsed_list("forwarded_from")?,
        health_check_paths,
        takes_proxy_protocol: fields.flag("proxy_protocol")?.unwrap_or(false),
        takes_tls: fields.flag("tls")?.unwrap_or(false),
    };
    Ok(IngressListener { ingress, port })
}

#[cfg(test)]
mod tests {
    use wire::decode::Format;

    use super::*;

    fn reading(text: &str) -> Result<Vec<IngressListener>, DecodeError> {
        let mut fields = Fields::new(Format::Hcl.read(text.as_bytes()).unwrap(), "").unwrap();
        let read = read(&mut fields)?;
        fields.finish()?;
        Ok(read)
    }

    #[test]
    fn a_load_balancer_is_named_and_known_by_its_addresses() {
        let text = r#"
            ingress {
              name = "public"
              service = "web"
              port = 8443
              from = ["10.0.0.0/16", "fd00::/64"]
              forwarded_from = ["10.0.0.0/16"]
              health_check_paths = ["/healthz"]
              tls = true
            }
            ingress {
              name = "partners"
              service = "web"
              namespace = "shop"
              port = 8444
              from = ["192.0.2.7"]
              proxy_protocol = true
            }"#;
        let [public, partners] = <[IngressListener; 2]>::try_from(reading(text).unwrap()).unwrap();
        assert_eq!((public.port, public.ingress.source.to_string().as_str()), (8443, "ingress/public"));
        assert_eq!(public.ingress.health_check_paths, BTreeSet::from(["/healthz".to_owned()]));
        assert!(public.ingress.takes_tls && !public.ingress.takes_proxy_protocol);
        assert_eq!(partners.ingress.service, "shop/web".parse().unwrap());
        assert!(partners.ingress.takes_proxy_protocol && partners.ingress.forwarded_from.is_empty());
        assert_eq!(reading("").unwrap(), []);
    }

    #[test]
    fn what_could_let_in_others_than_meant_is_refused_by_name() {
        let refused = |more: &str| {
            let text = format!("ingress {{\n service = \"web\"\n {more}\n}}");
            reading(&text).unwrap_err().to_string()
        };
        let whole = "name = \"public\"\n port = 1\n from = [\"10.0.0.0/8\"]\n";
        for (more, want) in [
            ("port = 1\n from = [\"10.0.0.0/8\"]".to_owned(), "name"),
            ("name = \"public\"\n from = [\"10.0.0.0/8\"]".to_owned(), "port"),
            ("name = \"public\"\n port = 1".to_owned(), "from"),
            ("name = \"public\"\n port = 1\n from = [\"10.1.0.0/8\"]".to_owned(), "10.0.0.0/8"),
            ("name = \"*\"\n port = 1\n from = [\"10.0.0.0/8\"]".to_owned(), "name"),
            (format!("{whole} health_check_paths = [\"/a/../b\"]"), "write `/b`"),
            (format!("{whole} health_check_paths = [\"healthz\"]"), "health_check_paths"),
            (format!("{whole} forwarded = true"), "forwarded"),
        ] {
            let said = refused(&more);
            assert!(said.contains(want), "{more}: {said}");
        }
        let twice = format!("ingress {{\n service = \"web\"\n {whole} }}\n").repeat(2);
        assert!(reading(&twice).unwrap_err().to_string().contains("port 1 is that of `ingress/public`"));
    }
}
