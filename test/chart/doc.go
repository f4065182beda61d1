// Package chart tests the Helm chart in deploy/chart: that it renders what is expected, that Kubernetes would take it, and that its containers
// have no more rights than they need. It is a module of its own, because Helm's libraries are many and the driver needs none of them.
package chart
