"""A simulated Salesforce org and mailbox, spoken to over real HTTP and real SMTP.

For demos and tests. No service imports this package: they meet it through a URL, as they meet the real thing.
"""
