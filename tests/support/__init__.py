"""Code that several tests share: fakes, certificates, kubeconfigs, archives, paces."""
