"""What other libraries and hubs take: folders of diffusers, repositories of the Hub."""
