"""Commands that deploy and observe an app: deploy, status, logs, exec, task, secret, ingress, release, events.

Parse, call, render; the work belongs in the packages beside ``commands``.
"""
