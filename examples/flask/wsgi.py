"""For a WSGI server: gunicorn --workers 2 --threads 4 wsgi:application"""

from app import create_app

application = create_app()
